"""Who is in the study: manifests, splits, and cohorts read from disk."""
