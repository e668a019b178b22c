! A chunk of 100 rows [n, n + 0.5, n + 0.25] in Fortran's order, by stream access.
program chunks
  use iso_fortran_env, only: real64, int8
  implicit none
  real(real64) :: rows(100, 3)
  character(len=1024) :: dataset
  character(len=118) :: text
  integer :: i, unit

  call get_command_argument(1, dataset)
  do i = 1, 100
    rows(i, :) = real(i - 1, real64) + [0.0_real64, 0.5_real64, 0.25_real64]
  end do
  text = "{'descr': '<f8', 'fortran_order': True, 'shape': (100, 3), }"
  text(118:118) = new_line('a')
  open(newunit=unit, file=trim(dataset)//'/fortran.npy', access='stream', form='unformatted', &
       status='new', action='write')
  write(unit) char(147), 'NUMPY', 1_int8, 0_int8, 118_int8, 0_int8, text, rows
  close(unit)
end program chunks
