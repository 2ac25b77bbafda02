"""Many trainings side by side: which ones a table needs, their results on disk, and the tables made of them."""
