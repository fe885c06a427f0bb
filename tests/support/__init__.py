"""What tests share: services, databases, brokers and clusters, all of them real; and the stand-in for the trainer."""
