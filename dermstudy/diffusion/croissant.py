"""Croissant metadata of a set of synthetic images, so that data loaders and search engines can read the folder.

Sources: Akhtar et al., "Croissant: a metadata format for ML-ready datasets" (arXiv 2403.19546), specification 1.0 of
MLCommons, and its vocabulary for responsible AI (RAI 1.0).
"""

from __future__ import annotations

from dataclasses import dataclass

CONFORMS_TO = ("http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0")
LICENCES = {
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "mit": "https://spdx.org/licenses/MIT.html",
}
OWN_TERMS = (  # what the specification's context maps to Croissant's own vocabulary
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in OWN_TERMS},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}


@dataclass(frozen=True)
class Column:
    """One column of the table: its name, its type ("sc:Text", "sc:Integer", …) and what it holds."""

    name: str
    kind: str
    meaning: str


def metadata(
    name: str,
    description: str,
    licence: str,
    cite_as: str,
    version: str,
    published: str,
    table: tuple[str, str],
    columns: tuple[Column, ...],
    images: str,
    joined_by: str,
    warnings: tuple[str, ...],
) -> dict:
    """The JSON-LD of a folder that holds one table and one image a row of it.

    licence: an SPDX identifier in lower case; written as an address where one is known. published: a date as
    YYYY-MM-DD. table: file name and SHA-256. images: a glob, relative to the folder. joined_by: the column that holds an
    image's file name, without its folder. warnings: sentences for whoever uses the images.
    """
    file, sha256 = table
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": description,
        "conformsTo": list(CONFORMS_TO),
        "license": LICENCES.get(licence, licence),
        "citeAs": cite_as,
        "creator": {"@type": "sc:Organization", "name": "the dermstudy developers"},
        "version": version,
        "datePublished": published,
        "isLiveDataset": False,
        "keywords": ["dermatoscopy", "skin lesion", "synthetic images", "text-to-image", "diffusion model"],
        "rai:dataCollection": "Painted by a text-to-image diffusion model from captions; no person was imaged.",
        "rai:dataLimitations": list(warnings),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file,
                "name": file,
                "description": "One row an image, in HAM10000's columns and those of the generator.",
                "contentUrl": file,
                "encodingFormat": "text/csv",
                "sha256": sha256,
            },
            {
                "@type": "cr:FileSet",
                "@id": "image-files",
                "name": "image-files",
                "description": "The images.",
                "encodingFormat": "image/png",
                "includes": images,
            },
        ],
        "recordSet": [_records(file, columns, joined_by)],
    }


def _records(file: str, columns: tuple[Column, ...], joined_by: str) -> dict:
    """The rows of the table, each with the pixels of its image."""
    fields = []
    for column in columns:
        source = {"fileObject": {"@id": file}, "extract": {"column": column.name}}
        entry = _field(column.name, column.meaning, column.kind, source)
        if column.name == joined_by:
            entry["references"] = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "filename"}}
        fields.append(entry)
    pixels = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": "content"}}
    fields.append(_field("image", "The pixels, RGB.", "sc:ImageObject", pixels))
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "One record an image.",
        "key": {"@id": "images/image_id"},
        "field": fields,
    }


def _field(name: str, meaning: str, kind: str, source: dict) -> dict:
    return {
        "@type": "cr:Field",
        "@id": f"images/{name}",
        "name": name,
        "description": meaning,
        "dataType": kind,
        "source": source,
    }
