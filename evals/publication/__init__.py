"""What may be published of a report: figures, names, and sentences written from them."""
