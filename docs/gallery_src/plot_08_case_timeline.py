"""
CASE on a recording
===================

`examples/case_wtal` finds actions in long recordings when training knows only which actions occur. Snippets are
clustered by balanced transport with a prior on their rank, and clusters are labelled foreground or background by
transport with an estimated marginal. Here it is trained for a few epochs on real smartwatch signals; `make demo` takes
the full time.
"""

from dataclasses import replace

import matplotlib.pyplot as plt

from examples.case_wtal.data import load
from examples.case_wtal.inference import detect, score_recordings
from examples.case_wtal.plots import draw_recording
from examples.case_wtal.recipes import otlabel as our_recipe
from examples.case_wtal.run import train

# %%
# A recipe is a complete configuration; what differs is replaced.

data, config = load("watch"), our_recipe("watch")
config = replace(config, train=replace(config.train, epochs=12), loss=replace(config.loss, warm_start_epochs=4))
module = train(config, data, progress=False)

# %%
# One test recording with two kinds of exercise. From top to bottom: the truth; class activations; the attention of the
# baseline; the clusters' foreground, which is what transport adds; the map that is cut; the instances found.

scores = score_recordings(module, data.test)
shown = next(s for s in scores if len(s.recording.labels) >= 2)
found = detect([shown], data.classes, config)
figure = draw_recording(shown, found, data, config)
plt.figure(figure)
plt.show()
