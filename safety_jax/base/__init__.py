"""What everything else builds on: errors, trees, the mesh, hosts, files."""
