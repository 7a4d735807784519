"""Encoders of text and pictures, frozen wherever they are used."""
