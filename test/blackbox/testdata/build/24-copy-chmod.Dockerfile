FROM box
COPY --chmod=741 a.txt /moded
