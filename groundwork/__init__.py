"""What all packages stand on: errors that a user can mend, files written whole, images, devices, command lines."""
