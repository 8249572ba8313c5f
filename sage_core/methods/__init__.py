"""What a method is made of: domain, target, retention, or a closed form."""
