"""The configuration of a run: training config, presets, known models, and checks of sections."""
