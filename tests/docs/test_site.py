"""The checks of a built site find what they are for, on a site made by hand."""

import zlib

from tests.docs.site import broken_links, documented_names


def write_site(folder, **pages):
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


def test_link_to_a_missing_page_is_broken(tmp_path):
    site = write_site(tmp_path, index='<a href="other.html">x</a>', other='<a href="gone.html">x</a>')
    assert broken_links(site) == ["other.html: gone.html"]


def test_link_to_a_missing_place_is_broken(tmp_path):
    site = write_site(tmp_path, index='<p id="here"></p><a href="#here">x</a><a href="#there">x</a>')
    assert broken_links(site) == ["index.html: #there (no such place)"]


def test_missing_picture_is_broken(tmp_path):
    assert broken_links(write_site(tmp_path, index='<img src="a.png">')) == ["index.html: a.png"]


def test_links_to_other_sites_are_left_alone(tmp_path):
    assert broken_links(write_site(tmp_path, index='<a href="https://example.org/x">x</a>')) == []


def test_documented_names_are_those_of_the_inventory(tmp_path):
    lines = "otlabel.swav py:function 1 a.html#$ -\nlearn/x std:doc -1 learn/x.html Title\n"
    (tmp_path / "objects.inv").write_bytes(b"a\nb\nc\nd\n" + zlib.compress(lines.encode()))
    assert documented_names(tmp_path) == {"otlabel.swav"}
