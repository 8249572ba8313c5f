"""The panel: a page on gradio, its queue, and what serves it. Only page.py, compat.py and serve.py know gradio."""
