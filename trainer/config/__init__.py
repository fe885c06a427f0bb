"""What a run is configured with: the training config, presets, known models, and checks of sections."""
