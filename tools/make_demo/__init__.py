"""How the bundled model was made: art, autoencoder, probe, text encoder and UNet (`python -m
tools.make_demo`).
"""
