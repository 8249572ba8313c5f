"""Judges from outside the model: CLIP, an image classifier, NudeNet. One file each."""
