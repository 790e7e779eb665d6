"""Running, proving and reporting the notebooks; no stage of the study is imported by the study's walk."""
