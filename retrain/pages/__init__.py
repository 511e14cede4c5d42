"""What all HTML pages share: they need nothing but themselves, and escape what came from outside. And their letters."""
