"""Messages between this service and others over RabbitMQ: outbox, publisher, consumer."""
