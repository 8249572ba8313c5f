"""The words of every prompt: what kind a concept is, its templates, its article."""
