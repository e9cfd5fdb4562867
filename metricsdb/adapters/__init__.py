"""Ways in that MetricsDB opens itself: scraping and listening. They take the native handle and a clock."""
