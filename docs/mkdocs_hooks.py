"""What ``mkdocs.yml`` needs beyond its settings: pages that lie elsewhere, and docstrings in the words of mkdocs.

The README is the front page, and whatever pages link to, tests and examples too, becomes a part of the site. The
reference is made of the public names, so that none is missing.
"""

import ast
import os
import re
from pathlib import Path

from griffe import Extension
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"index.md": "README.md"} | {
    name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "tests/benchmarks/README.md")
}
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")
MODULES = ("lightning_clr.search", "lightning_clr.reading", "lightning_clr.curve")


def public_names():
    """Those of the package, in its order."""
    for node in ast.parse((ROOT / "lightning_clr" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise LookupError("lightning_clr has no __all__")


def reference():
    """A page that names what mkdocstrings is to show."""
    names = [f"lightning_clr.{name}" for name in public_names()] + list(MODULES)
    return "# Reference\n\nAll public names, from their docstrings.\n\n" + "\n\n".join(f"::: {name}" for name in names)


def in_repository(src_uri):
    """Where a page of the site lies in the repository."""
    return Path(ELSEWHERE.get(src_uri, f"docs/{src_uri}"))


def in_site(path):
    """Where a file of the repository lies in the site."""
    at = {repository: site for site, repository in ELSEWHERE.items()}.get(path, path)
    return at.removeprefix("docs/")


def target_of(link, src_uri):
    """The file of the repository that a link on a page leads to."""
    return os.path.normpath(in_repository(src_uri).parent / link)


def on_files(files, config):
    """Add the pages that lie elsewhere, the reference, and the files that pages link to."""
    for site, repository in ELSEWHERE.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / repository)))
    files.append(File.generated(config, "reference.md", content=reference()))
    for page in list(files.documentation_pages()):
        for _, link in LINK.findall(page.content_string):
            target = target_of(link, page.src_uri)
            if (ROOT / target).is_file() and files.get_file_from_path(in_site(target)) is None:
                files.append(File.generated(config, in_site(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Let links lead to where the site has the files."""
    here = Path(page.file.src_uri).parent

    def moved(match):
        target = in_site(target_of(match[2], page.file.src_uri))
        return match[1] + os.path.relpath(target, here).replace(os.sep, "/")

    return LINK.sub(moved, markdown)


class Docstrings(Extension):
    """Sphinx's roles become code, and a single example one of the examples that griffe knows."""

    def on_object(self, *, obj, **kwargs):
        """Rewrite a docstring before it is parsed."""
        if obj.docstring:
            text = re.sub(r":(?:class|func|meth|attr):`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^(\s*)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
