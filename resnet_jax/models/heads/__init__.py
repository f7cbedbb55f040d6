"""What makes outputs of a backbone's maps, a file each; the classifier, on pooled features, is in models/resnet."""
