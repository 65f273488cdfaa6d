"""What a response answers, and whether that is right: one judge for rewards, buckets, detection and evaluation."""
