"""What runs flows: the local stack, automations and work-pool templates."""
