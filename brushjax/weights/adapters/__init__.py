"""What is added to loaded models: LoRA files, learnt words, a second stream of attention."""
