"""What training and inference share: published bases, text features, parts that belong together."""
