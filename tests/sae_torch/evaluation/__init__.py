"""Figures of the evaluation against plain computations of the same (`plain`), and the pages made of them."""
