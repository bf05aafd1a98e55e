FROM box
RUN echo a \
  # a comment
  && echo b > /b

RUN echo c \
 > /c
