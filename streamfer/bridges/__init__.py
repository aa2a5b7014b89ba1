"""Records handed on to what does not speak Redis: an MQTT broker, a webhook."""
