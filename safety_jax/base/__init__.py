"""Everything below the subject: errors, trees, the mesh, hosts, files."""
