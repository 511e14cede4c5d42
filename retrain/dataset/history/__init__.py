"""The versions there are, and what is made of them or kept out of them."""
