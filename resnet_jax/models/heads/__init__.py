"""Heads, which turn a backbone's maps into outputs, one file each. The classifier is in models/resnet."""
