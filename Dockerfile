# The study in a container: docker build -t dermstudy . && docker run --name study dermstudy
# What it wrote: docker cp study:/home/study/dermstudy/results results-of-the-container
FROM python:3.11.7-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home study \
    && install --directory --owner=study /home/study/dermstudy
USER study
WORKDIR /home/study/dermstudy
# The environment is a layer of its own: it is made anew where the lock changes, not where a notebook does.
COPY --chown=study pyproject.toml requirements.lock Makefile README.md LICENSE ./
COPY --chown=study dermstudy/__init__.py dermstudy/__init__.py
RUN make .venv/.installed PYTHON=python3.11
COPY --chown=study . .
CMD ["make", "study"]
