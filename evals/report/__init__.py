"""What people see of measurements: the figures of reports, sentences, pages, and charts."""
