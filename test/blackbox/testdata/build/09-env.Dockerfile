FROM box
ENV A=1 B="two words" C=$A
ENV D=${A}x E=${Z:-none}
RUN echo "$A $B $C $D $E" > /env
