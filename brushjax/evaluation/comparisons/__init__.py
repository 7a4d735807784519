"""Sweeps over methods of several papers, made of what is there."""
