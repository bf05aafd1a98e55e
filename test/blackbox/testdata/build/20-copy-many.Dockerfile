FROM box
COPY a.txt b.txt /many/
