"""FireEdit (arXiv 2503.19839): the networks between a picture, an instruction and the UNet."""
