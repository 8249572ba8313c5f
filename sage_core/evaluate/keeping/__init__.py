"""What an erasure kept: near and far over distance, style against content, distances, and naturalness."""
