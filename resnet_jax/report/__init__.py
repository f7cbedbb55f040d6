"""Output for people: progress, metric files, experiment trackers, figures and HTML pages."""
