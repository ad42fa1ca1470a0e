"""What `mkdocs.yml` needs besides MkDocs: pages that are made from other files, and docstrings read as Markdown.

``make docs`` builds the site in an environment of its own (``requirements/docs.txt``), without torch.
"""
