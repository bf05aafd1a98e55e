FROM box
COPY a.txt /
COPY a.txt /renamed
COPY a.txt /new/dir/
