"""Commands that publish an edit and repeat a published one."""
