"""The phases of a campaign, each started again from what is durable."""
