FROM box AS a
RUN echo a > /f
FROM a AS b
RUN echo b >> /f
FROM b
RUN cat /f > /g
