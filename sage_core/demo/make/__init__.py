"""How the bundled model was made: art, autoencoder, probe, text encoder and UNet (`python -m sage_core.demo.make`)."""
