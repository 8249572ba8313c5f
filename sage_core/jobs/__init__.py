"""From a spec to files: every host takes this road."""
