FROM box
COPY *.txt /w/
COPY d?r /w2/
