"""What tests share: services, databases, brokers, clusters, and the stand-in for the trainer."""
