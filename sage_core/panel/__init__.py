"""The panel: a page on gradio, its queue, and what serves it. Most of it knows nothing of gradio."""
