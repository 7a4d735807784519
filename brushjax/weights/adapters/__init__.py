"""What is added to loaded models: LoRA files and learnt words."""
