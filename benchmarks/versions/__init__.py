"""Exports and the package itself under the oldest and newest versions of what they rest on."""
