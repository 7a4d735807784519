"""Evaluation: plan units, generate pictures, score them, report; every stage can be repeated."""
